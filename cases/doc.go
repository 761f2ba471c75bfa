// Package cases is the thirty ways in which a log on disk is known to go wrong, each a test that is
// named after its case, so that
//
//	go test -run TestCase ./...
//
// runs them all. Those that are about files are here, on real ones; those that need a disk that can be
// steered (a power cut, a sync that lies, a stall) are beside what they test. A test of this package sees to it that
// none is missing.
//
//	01 power cut inside an append                        journal
//	02 a later page durable, an earlier one not          wal
//	03 bad checksum in a sealed segment                  wal
//	04 bit flip in a length                              cases
//	05 lengths of 2^32-1, 2^63, negative after a cast    cases
//	06 segment of zeros                                  cases
//	07 zero-byte or short segment                        cases
//	08 segment missing in the middle                     cases
//	09 deleted segment that reappears                    wal, cases
//	10 left-over temporary checkpoint                    cases
//	11 newest checkpoint empty or damaged                cases
//	12 checkpoint into the middle of a frame             cases
//	13 stale frames in a recycled segment                journal
//	14 marks twice, before, or without their enqueue     state
//	15 crash during recovery, and during the next one    wal
//	16 crash at every step of compaction                 wal
//	17 SIGKILL at any instant                            internal/drill
//	18 EIO once on sync                                  wal
//	19 a sync that lied                                  wal
//	20 no space when a segment is made                   journal, cases
//	21 full disk on btrfs and on reflinked XFS           cases
//	22 recovery on a completely full disk                wal, cases
//	23 EROFS                                             wal, cases
//	24 mapped segment truncated by someone else          wal
//	25 EIO when a cold body is read                      wal
//	26 the disk stalls for 10 s                          wal
//	27 second process or second Open                     wal, cases
//	28 links, FIFOs, devices, owners, modes              cases
//	29 names of queues that are no file names            cases
//	30 walctl on hostile files                           cmd/walctl
package cases
