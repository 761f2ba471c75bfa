package main

import (
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newHold() *cobra.Command {
	return newEdit("hold", "Hold messages: they are delivered to nobody until they are released",
		`Hold keeps messages back until they are released. Mail that comes into a queue later is not
held: for that, hold the queue itself with the queue command.`,
		editing{verb: "held", result: wal.Held})
}
