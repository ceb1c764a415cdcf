// Package raftstate is one node of the replicated state: the log that everything acknowledged goes through, the
// deciding state that is a function of it, and the stores that it feeds.
//
// The way of a proposal: Propose (any node) hands it to the leader's proposer, which joins those of many callers
// into entries of about 256 KiB and stamps them; raft makes them durable on a majority; ApplyBatch (fsm.go)
// decides on each entry in order (package machine), lets the stores take the accepted samples and lines in
// parallel, tells observers, and the results go back to the callers.
//
// What is durable when: an acknowledged proposal lies fsynced in the logs of a majority. The state and the stores
// follow at marks (marks.go): a mark flushes the stores, syncs their file systems and commits the deciding state
// with the watermark last, so that a start replays the log from the watermark on. A peer that the log no longer
// reaches installs an image (install.go): the stores linked at one index while Apply stands still, streamed
// afterwards, and swapped in by renaming one file.
//
// What stops a node (FatalError, Config.OnFatal): damage that cannot heal itself, a disk that fails or hangs, an
// entry that this version does not know. A full disk does not: leadership moves to a node with room, data is refused
// before what frees room is (room.go), Apply waits, and all goes on once there is room again.
//
// The package may import agent/wire and the packages below it, and no store: stores are given as Sinks.
package raftstate
