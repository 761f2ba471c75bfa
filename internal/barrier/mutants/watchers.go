package main

import . "github.com/mtawal/mtawal/internal/barrier"

// watcher is a test that notices that a barrier is gone.
type watcher struct {
	pkg, test string // test is a regular expression
}

// watchers has one for each barrier.
var watchers = map[Barrier]watcher{
	CommitSync:       {"wal", "^TestScenario_PowerCutRightAfterNil$"},
	TailRewrite:      {"wal", "^TestScenario_KillBetweenWriteAndSyncThenPowerCut$"},
	Salt:             {"journal", "^TestCase13_StaleFramesInARecycledSegment$"},
	Chain:            {"wal", "^TestScenario_ForgedFrameBehindTheEnd$"},
	Epoch:            {"wal", "^TestScenario_ForgedFrameBehindTheEnd$"},
	SuccessorSync:    {"wal", "^TestScenario_CrashAtEveryStepOfARotation$"},
	SuccessorName:    {"wal", "^TestScenario_CrashAtEveryStepOfARotation$"},
	SealSync:         {"wal", "^TestScenario_CrashAtEveryStepOfARotation$"},
	MetaName:         {"wal", "^TestScenario_CrashWhileAStoreIsMade$"},
	TailNames:        {"journal", "^TestNamesThatAKillLeftLoose$"},
	CheckpointName:   {"wal", "^TestScenario_CheckpointIsDurable$"},
	ParentSync:       {"internal/disk", "^TestBarriers$"},
	CheckpointSync:   {"wal", "^TestScenario_CheckpointIsDurable$"},
	ReadBack:         {"checkpoint", "^TestPublishReadBackSyncLies$"},
	OlderReadBack:    {"wal", "^TestScenario_OlderCheckpointIsReadBack$"},
	DoubtBeforeSlots: {"wal", "^TestScenario_SecondKillForgetsNothing$"},
	KeyWait:          {"wal", "^TestScenario_DuplicateKeyWaitsForFirst$"},
	LockOutlives:     {"wal", "^TestScenario_LockOutlivesStalledWrite$"},
	StreamPin:        {"wal", "^TestScenario_(ChunksWithoutTheirMessage|StreamOfABatchIsHeldUntilItIsApplied|SpaceOfStagedBodiesComesBack)$"},
	ReaderPin:        {"journal", "^TestRecycleWaitsForReaders$"},
	Latch:            {"wal", "^TestScenario_FailedWriteLatches$"},
	NamesLatch:       {"journal", "^TestMakerNamesNotDurable$"},
	ClaimChecksum:    {"wal", "^TestCase03_BadChecksumInASealedSegment$"},
	TailChecksum:     {"journal", "^TestCase01_PowerCutInsideAnAppend$"},
	MoveChecksum:     {"wal", "^TestCompactSetsDamageAside$"},
	SizeCheck:        {"journal", "^TestTailCutUnderTheStore$"},
}
