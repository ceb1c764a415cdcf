// Package spool keeps what an agent has collected until the cluster has it: a bounded write-ahead log on disk,
// one sequence of batches per lane, each batch fsynced before Append returns.
//
// It owns the epoch (the random name of this life of the spool), the dictionary of local series numbers, the
// position up to which the cluster has acknowledged each lane, and the positions of the sources (files,
// journal): those are written inside the record of the batch that holds the lines read, so that after a crash
// a line is in the spool exactly when its source is behind it.
//
// A batch keeps its sequence for ever. What must be given up (a full spool, a batch that the cluster refuses)
// is replaced by an empty batch of the same sequence and counted, never skipped silently. The first 64
// unacknowledged batches of a lane are never given up because of space: they may have been sent already, and a
// sequence must not be sent with two contents.
//
// Damage is found by checksum when the spool is opened: a torn last record is cut off (it was never
// acknowledged to its producer), anything else, and what the disk does not give back at any time, is ErrDamaged,
// upon which OpenOrReplace sets the spool aside and begins a new one with the source positions it can still read.
//
// Bytes on disk are bounded by Options.MaxBytes plus the positions of the sources, which are written at the head of
// each segment and never keep batches out.
//
// The package imports agent/wire and nothing else of Triward.
package spool
