package main

import (
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newRemove() *cobra.Command {
	return newEdit("remove", "Remove messages for good: they are marked used, and nobody is told",
		`Remove marks messages used without a delivery and without a bounce. It can't be taken back. A
message that is damaged goes too.`,
		editing{verb: "removed", result: wal.Removed})
}
