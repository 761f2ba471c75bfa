package main

import "github.com/mtawal/mtawal/internal/barrier"

// watcher is a test that notices that a barrier is gone.
type watcher struct {
	pkg, test string // test is a regular expression
}

// watchers has one for each barrier.
var watchers = map[barrier.Barrier]watcher{
	barrier.CommitSync:       {"wal", "^TestScenario_PowerCutRightAfterNil$"},
	barrier.TailRewrite:      {"wal", "^TestScenario_KillBetweenWriteAndSyncThenPowerCut$"},
	barrier.Salt:             {"journal", "^TestCase13_StaleFramesInARecycledSegment$"},
	barrier.Chain:            {"wal", "^TestScenario_ForgedFrameBehindTheEnd$"},
	barrier.Epoch:            {"wal", "^TestScenario_ForgedFrameBehindTheEnd$"},
	barrier.SuccessorSync:    {"wal", "^TestScenario_CrashAtEveryStepOfARotation$"},
	barrier.SuccessorName:    {"journal", "^TestSuccessorIsNamedBeforeItIsWritten$"},
	barrier.SealSync:         {"wal", "^TestScenario_CrashAtEveryStepOfARotation$"},
	barrier.MetaName:         {"wal", "^TestScenario_CrashWhileAStoreIsMade$"},
	barrier.TailNames:        {"journal", "^TestNamesThatAKillLeftLoose$"},
	barrier.CheckpointName:   {"wal", "^TestScenario_CheckpointIsDurable$"},
	barrier.ParentSync:       {"internal/disk", "^TestBarriers$"},
	barrier.CheckpointSync:   {"wal", "^TestScenario_CheckpointIsDurable$"},
	barrier.ReadBack:         {"checkpoint", "^TestPublishReadBackSyncLies$"},
	barrier.OlderReadBack:    {"wal", "^TestScenario_OlderCheckpointIsReadBack$"},
	barrier.DoubtBeforeSlots: {"wal", "^TestScenario_SecondKillForgetsNothing$"},
	barrier.KeyWait:          {"wal", "^TestScenario_DuplicateKeyWaitsForFirst$"},
	barrier.LockOutlives:     {"wal", "^TestScenario_LockOutlivesStalledWrite$"},
	barrier.StreamPin:        {"wal", "^TestScenario_(ChunksWithoutTheirMessage|StreamOfABatchIsHeldUntilItIsApplied|SpaceOfStagedBodiesComesBack)$"},
	barrier.ReaderPin:        {"journal", "^TestRecycleWaitsForReaders$"},
	barrier.Latch:            {"wal", "^TestScenario_FailedWriteLatches$"},
	barrier.NamesLatch:       {"journal", "^TestMakerNamesNotDurable$"},
	barrier.ClaimChecksum:    {"wal", "^TestCase03_BadChecksumInASealedSegment$"},
	barrier.TailChecksum:     {"journal", "^TestCase01_PowerCutInsideAnAppend$"},
	barrier.MoveChecksum:     {"wal", "^TestCompactSetsDamageAside$"},
	barrier.SizeCheck:        {"journal", "^TestTailCutUnderTheStore$"},
	barrier.DeadName:         {"journal", "^TestCrashEverywhere$"},
	barrier.OlderStart:       {"wal", "^TestScenario_CrashAtEveryStepOfShrinking$"},
	barrier.SpareTaken:       {"wal", "^TestScenario_CrashAtEveryStepOfHoldingBlocks$"},
	barrier.SpareSync:        {"journal", "^TestSpareFilesAreDurable$"},
	barrier.ScrubSync:        {"wal", "^TestScenario_CrashAtEveryStepOfScrubbing$"},
	barrier.ScrubLeft:        {"journal", "^TestScrubWipesWhatACrashLeft$"},
	barrier.ColdSync:         {"wal", "^TestScenario_CrashAtEveryStepOfFillingAColdSegment$"},
	barrier.Unmap:            {"wal", "^TestScenario_CrashAtEveryStepOfGivingSegmentsBack$"},
}
