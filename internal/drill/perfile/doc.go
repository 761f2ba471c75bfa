// Package perfile is the classic mail spool, for comparison: one file a message,
// and used-marks that are written later.
//
// It is what Microsoft's Q238189 tells of, as plainly as it can be built, and it
// is built to be fast and right at what such a spool promises:
//
//   - Enqueue writes the message to a file of its own, syncs it, gives it its
//     final name and syncs the directory. nil: durable.
//   - A used-mark is a rename. Settle puts it on a list in memory and returns;
//     one background worker goes through the list and renames, without a sync.
//   - Open rebuilds the queues from every file that is not marked used.
//
// The name of a file holds a bit for each recipient, so that one rename marks
// some recipients of a message and leaves the others. Deferral, and what is in
// doubt, live in memory: a restart forgets them, and every recipient not marked
// is due at once.
//
// The package implements the part of [mailq.Store] that a drill drives; the
// rest says errors.ErrUnsupported.
package perfile
