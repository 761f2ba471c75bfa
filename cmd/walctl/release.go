package main

import (
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newRelease() *cobra.Command {
	return newEdit("release", "Release messages that are held: they are due at once",
		`Release ends the hold of messages that are held; they are due at once. What is not held is
left as it is.`,
		editing{verb: "released", result: wal.Released, state: mailq.OnHold})
}
