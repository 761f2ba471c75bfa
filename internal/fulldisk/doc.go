// Package fulldisk is a test on real file systems that are full: an MTA core in a process of
// its own fills one, others take what is left of it, every delivery ends in a bounce, and the
// process is killed again and again. It needs root, loop devices and mkfs.
package fulldisk
