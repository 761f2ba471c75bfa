// Package journal is the log: segments in a row. It appends frames, rotates,
// recycles, reads frames from a position, and recovers: where does the log end?
//
// It knows nothing of messages. What a frame's records mean is the business of package
// state; when a segment is dead is told by package checkpoint.
//
// # Promises
//
// A frame's promise is the position through which the log was durable when the
// frame was written: the contiguous prefix of writes that had completed. Below the highest promise
// found anywhere, what is not valid is damage and Recover refuses; at or above it, what
// is not valid is a torn tail, which was never acknowledged, and is cut.
//
// # Files
//
//	seg-NNNNNNNN   a segment under its final name: valid, or damage
//	free-*         a file on its way from one life to the next; removed at open
//	free-spare-*   blocks allocated ahead, for when the disk is full; kept at open
//	tmp-*          removed at open
//	cut-*          a torn tail that was cut, kept for people
package journal
