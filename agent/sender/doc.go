// Package sender brings what the spool holds to the cluster: it registers the agent, says hello, gives series
// their cluster ids, sends batches in order per lane and moves the spool's acknowledgement when, and only when,
// the cluster said that it has a batch.
//
// One request is under way at a time, with up to 64 batches of all lanes; so at most 64 batches of a lane can
// have an unknown outcome, which is what the spool relies on. After every failure the next step is a hello,
// whose answer names the last batch of each lane that the cluster took, so nothing is sent under a new epoch
// that was taken under the old one.
//
// The package owns the connections to the nodes and the identity file. It imports agent/spool and agent/wire
// and nothing of the server.
package sender
