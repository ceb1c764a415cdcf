// Package simulation runs whole clusters of raftstate nodes in virtual time (a bubble of testing/synctest), on a network
// and on disks of its own that fail as a plan says, and holds what clients saw against what a replicated state machine
// may answer.
//
// A seed gives a plan: the size of the cluster, its settings, and which fault comes when. The interleaving of
// goroutines is not part of it (raft draws its time-outs itself), so a seed repeats the schedule of faults and not
// every step. What happened is a History, which Check reads; a run that fails leaves it as a file, so that Check can be
// asked again.
//
// What is simulated and what not is told in docs/reliability.md. The package is for tests only. Stores come from the
// caller (Stores), the package has plain ones in memory and imports no real one.
package simulation
