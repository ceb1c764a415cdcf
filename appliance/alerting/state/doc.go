// Package state is what alerts go through, as pure functions: from the condition of a rule to pending, firing and
// resolved, with acknowledgement, silence and inhibition, and from the alerts of a group to what its receiver is to be
// told and when.
//
// It owns no memory and no clock. Every function takes the log time (milliseconds since 1970) and the present records
// and returns the records that differ, so that the same input gives the same output on every node and all deadlines
// survive a change of the leader. It must not import anything of Triward.
package state
