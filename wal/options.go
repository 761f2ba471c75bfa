package wal

import (
	"log/slog"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// Options of a store. The zero value is safe and durable; a field that is zero means
// its default.
type Options struct {
	// SegmentSize is the size of new segments in bytes, 64 KiB to 1 GiB, rounded up to
	// whole blocks. Default 64 MiB. It may change from one opening to the next.
	SegmentSize int64
	// MaxBytes bounds what the files of the store take on disk, whatever a crash leaves. Intake stops with ErrFull
	// when six segments and two checkpoints are left of it; used-marks and deferrals go on. It resumes when one segment
	// more is left, and one may be full: so a new store is refused with a *FieldError that says what it needs
	// if MaxBytes is below nine times SegmentSize, the 1 MiB of the claim table and some 100 KiB; with the default
	// segments 578 MiB suffices. Mail under way comes on top. A store that
	// holds more when it is opened, the reserve of six segments included, as it may when MaxBytes is smaller than it
	// was or SegmentSize is another, takes no mail, goes on with used-marks and deferrals in a reserve
	// above MaxBytes, and comes to within it as mail is used, as far as the reserve lets it. One that is opened with
	// less than a new one needs says so to Logger, delivers what it holds, and may take no mail. 0: no bound but the disk.
	MaxBytes int64
	// MaxMessage is the largest body in bytes, at most 1 GiB. Default 64 MiB. With segments
	// below 512 KiB it is less, since the list of a body's chunks must fit into one: 31 MiB
	// with the smallest.
	MaxMessage int64
	// StageTimeout is how long a staged body is kept after the last Write to it, at most 24
	// hours. Default 1 hour. None is kept longer than 24 times that.
	StageTimeout time.Duration
	// StagedMax is how many bodies may be staged at a time; each takes up to 256 KiB of
	// memory. Default 1,000, at most 1,000,000.
	StagedMax int
	// StagedBytes bounds what they hold in all, or were announced to. Default 8 GiB; not
	// below MaxMessage.
	StagedBytes int64
	// MaxRecipients is how many recipients a message may have, at most 1,048,576.
	// Default 100,000.
	MaxRecipients int
	// NoSync commits into the page cache only: what was acknowledged survives the death
	// of the process, not that of the machine.
	NoSync bool
	// DurableStart makes a claim, or Start, wait until the attempt is durable, so that
	// after a power cut too no delivery is repeated without notice.
	DurableStart bool
	// KeyWindow and KeyMax say how long, and how many, idempotency keys are
	// remembered. Defaults: 24 hours, 1,000,000.
	KeyWindow time.Duration
	KeyMax    int
	// Doubt and DoubtDelay say what becomes of recipients that come back in doubt, in queues
	// whose own state says Redeliver: as QueueState does for one queue, without a state that
	// keeps each queue in the store for ever. A queue that is to redeliver where this says
	// something else says DeferDoubt with no delay. Default: Redeliver.
	Doubt      DoubtPolicy
	DoubtDelay time.Duration
	// CompactRate is how many bytes a second the store copies at most, of its own accord, to
	// empty segments in which little is live. The slower, the more of what waits comes to lie
	// among mail that does not, and is copied again. Default 256 MiB.
	CompactRate int64
	// CompactDead is the share of a segment, in percent, that must be dead for what lives in it to be
	// copied out of it. Default 50.
	CompactDead int
	// CompactSpace is how many bytes of log there may be for each that lives, in percent, before
	// the store empties segments of its own accord: 200 is twice. It begins half a segment ahead. Default 200; not below 100.
	CompactSpace int
	// CompactMin is how many bytes must come back for it to do so, beside four checkpoints, since it
	// costs two of these. Default: three quarters of a segment.
	CompactMin int64
	// Scrub has bodies of used mail written over with zeros, on disk, as soon as their segment
	// is dead: when every message with bytes in it is used or was copied elsewhere, two
	// checkpoints lie behind it, and nobody reads it. Compact has that come about for all segments
	// but the one that is written, whose turn comes when it is full, or when the store was empty for a minute. It
	// costs as many bytes again as are written, and has what is copied lie among fresh mail. Without it they stay until they are written
	// over. Notes and addresses are in checkpoints too, which are written over by later ones.
	Scrub bool
	// Administer opens the store for a tool that changes what waits, and delivers nothing, where the options of
	// the store's owner are not known. What only these decide is left to the owner: what was being
	// delivered when the owner died is put in doubt, and gets the owner's Doubt, at the owner's next opening; keys stay,
	// however old and many. Dead segments are scrubbed, since the owner may have promised it. No store is
	// made, and no mail is taken or handed out: Enqueue, Stage, Admit, Claim and Consumer get ErrInvalid.
	Administer bool
	// Logger is told what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
	// Trace is called on events of the engine, as net/http/httptrace is on those of a
	// request.
	Trace *Trace

	fs     disk.FS // of tests; the operating system's
	claims int     // of tests: slots of the claim table
	idle   int64   // of tests: the size of the segments of an idle store
	fold   int64   // of tests: by how much the log grows at least until a checkpoint is due
	now    func() time.Time
}

// Trace is callbacks, any of which may be nil. They run on the engine's goroutines
// and hold it up.
type Trace struct {
	// Durable: a group of commits is on disk. It is not applied yet, and nobody has
	// been told.
	Durable func(CommitInfo)
	// Compacted: a piece of a compaction is done.
	Compacted func(CompactInfo)
}

// CommitInfo is one write to the log.
type CommitInfo struct {
	Batches int
	Records int
	Bytes   int64
}

// Limits and defaults of Options.
const (
	SegmentSizeDefault   = 64 << 20
	MaxMessageDefault    = 64 << 20
	MaxMessageMax        = 1 << 30
	StageTimeoutDefault  = time.Hour
	StageTimeoutMax      = 24 * time.Hour
	StagedMaxDefault     = 1000
	StagedBytesDefault   = 8 << 30
	MaxRecipientsDefault = 100_000
	KeyWindowDefault     = 24 * time.Hour
	KeyMaxDefault        = 1_000_000
	CompactRateDefault   = 256 << 20
	CompactDeadDefault   = 50
	CompactSpaceDefault  = 200

	// poolMax is how many dead segments are kept for another life. A compaction has about as many die at
	// once; what is removed is made again from nothing, with zeros.
	poolMax = 6
)

func limit(field string, v, most int64) error {
	if v < 0 {
		return &mailq.FieldError{Field: field, Reason: "is negative"}
	}
	if v > most {
		return &mailq.LimitError{Field: field, Size: v, Max: most}
	}
	return nil
}

// withDefaults checks the options and fills in what is zero.
func (o Options) withDefaults() (Options, error) {
	for _, c := range []struct {
		field   string
		v, most int64
	}{
		{"Options.SegmentSize", o.SegmentSize, segment.SizeMax},
		{"Options.MaxBytes", o.MaxBytes, 1<<63 - 1},
		{"Options.MaxMessage", o.MaxMessage, MaxMessageMax},
		{"Options.StageTimeout", int64(o.StageTimeout), int64(StageTimeoutMax)},
		{"Options.StagedMax", int64(o.StagedMax), 1_000_000},
		{"Options.StagedBytes", o.StagedBytes, 1<<63 - 1},
		{"Options.MaxRecipients", int64(o.MaxRecipients), segment.RecipientsMax},
		{"Options.DoubtDelay", int64(o.DoubtDelay), 1<<63 - 1},
		{"Options.KeyWindow", int64(o.KeyWindow), 1<<63 - 1},
		{"Options.KeyMax", int64(o.KeyMax), 1 << 30},
		{"Options.CompactRate", o.CompactRate, 1<<63 - 1},
		{"Options.CompactDead", int64(o.CompactDead), 100},
		{"Options.CompactSpace", int64(o.CompactSpace), 1 << 20},
		{"Options.CompactMin", o.CompactMin, 1<<63 - 1},
	} {
		if err := limit(c.field, c.v, c.most); err != nil {
			return o, err
		}
	}
	if o.Doubt > mailq.DeferDoubt {
		return o, &mailq.FieldError{Field: "Options.Doubt", Reason: "is none"}
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = SegmentSizeDefault
	}
	if o.SegmentSize < segment.SizeMin {
		return o, &mailq.FieldError{Field: "Options.SegmentSize", Reason: "is below 64 KiB"}
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = MaxMessageDefault
	}
	if o.StageTimeout == 0 {
		o.StageTimeout = StageTimeoutDefault
	}
	if o.StagedMax == 0 {
		o.StagedMax = StagedMaxDefault
	}
	if o.StagedBytes == 0 {
		o.StagedBytes = StagedBytesDefault
	}
	if o.StagedBytes < o.MaxMessage {
		return o, &mailq.FieldError{Field: "Options.StagedBytes", Reason: "is below MaxMessage"}
	}
	if o.MaxRecipients == 0 {
		o.MaxRecipients = MaxRecipientsDefault
	}
	if o.KeyWindow == 0 {
		o.KeyWindow = KeyWindowDefault
	}
	if o.CompactRate == 0 {
		o.CompactRate = CompactRateDefault
	}
	if o.CompactDead == 0 {
		o.CompactDead = CompactDeadDefault
	}
	if o.CompactSpace == 0 {
		o.CompactSpace = CompactSpaceDefault
	}
	if o.CompactSpace < 100 {
		return o, &mailq.FieldError{Field: "Options.CompactSpace", Reason: "is below 100"}
	}
	if o.CompactMin == 0 {
		o.CompactMin = o.SegmentSize / 4 * 3
	}
	if o.KeyMax == 0 {
		o.KeyMax = KeyMaxDefault
	}
	if o.Administer {
		o.Scrub = true
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.claims == 0 {
		o.claims = claimSlots
	}
	if o.fold == 0 {
		o.fold = o.SegmentSize / 2
	}
	if o.idle == 0 {
		o.idle = idleSegment
	}
	if o.fs == nil {
		o.fs = disk.OS()
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o, nil
}

// owned refuses what a store that was opened to be administered does not do.
func (o *Options) owned() error {
	if o.Administer {
		return &mailq.FieldError{Field: "Options.Administer", Reason: "is set: no mail is taken or handed out"}
	}
	return nil
}

func (o *Options) journal(block int64) journal.Options {
	size := (o.SegmentSize + block - 1) / block * block
	return journal.Options{SegmentSize: size, PoolMax: poolMax, Scrub: o.Scrub, NoSync: o.NoSync, Logger: o.Logger,
		Now: func() int64 { return o.now().UnixNano() }}
}
