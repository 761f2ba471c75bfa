package segment

// Finding is what stands at a place in the log where a frame should.
type Finding uint8

// The findings.
const (
	Whole       Finding = iota // a valid frame with all its bodies
	BodyBad                    // header and table are valid, a body is not
	FrameBad                   // header or table is not valid: torn, zeros, or nothing
	NoSuccessor                // behind a Seal, no valid segment
	Unreadable                 // the device returns an error, also on a second, uncached read
)

// Decision is what recovery does about it.
type Decision uint8

// The decisions.
const (
	Replay   Decision = iota // apply it and go on
	SetAside                 // apply it; the messages hit are damaged; go on
	Cut                      // the log ends here; what follows is a torn tail
	Corrupt                  // refuse to open, touch nothing: ErrCorrupt
	Fail                     // refuse to open, touch nothing: the device's error
)

// Verdict is one row of the table.
type Verdict struct {
	Finding  Finding
	Promised bool // the place is below the highest promise
	Decision Decision
	Why      string
}

// Verdicts is where the log ends, as a table: every combination of finding and
// promise has exactly one row.
//
// What was promised had been durable, so its absence is damage. What was not may
// have been torn by a crash before anybody was told that it was there. A Seal is
// a promise itself: it is written when its successor stands, so the successor's
// absence is damage wherever it is found. An unreadable place may be either, so
// nobody decides.
var Verdicts = [...]Verdict{
	{Whole, true, Replay, "durable and whole"},
	{Whole, false, Replay, "whole, perhaps in the page cache alone; written again before anything builds on it"},
	{BodyBad, true, SetAside, "was durable, so a body has decayed; its message is set aside, the others stand"},
	{BodyBad, false, Cut, "torn: a body of an unacknowledged commit never reached the device"},
	{FrameBad, true, Corrupt, "was durable, so the log has decayed or been overwritten"},
	{FrameBad, false, Cut, "torn, or the end: nothing here was acknowledged"},
	{NoSuccessor, true, Corrupt, "a Seal is written when its successor stands"},
	{NoSuccessor, false, Corrupt, "a Seal is written when its successor stands"},
	{Unreadable, true, Fail, "the bytes may be there"},
	{Unreadable, false, Fail, "the bytes may be there"},
}

// Judge looks the decision up.
func Judge(f Finding, promised bool) Decision {
	for i := range Verdicts {
		if v := &Verdicts[i]; v.Finding == f && v.Promised == promised {
			return v.Decision
		}
	}
	return Fail
}
