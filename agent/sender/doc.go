// Package sender brings what the spool holds to the cluster: it registers the agent, says hello, gives series
// their cluster ids, sends batches in order per lane and moves the spool's acknowledgement when, and only when,
// the cluster said that it has a batch.
//
// One request is under way at a time, with up to 64 batches of all lanes; so at most 64 batches of a lane can
// have an unknown outcome, which is what the spool relies on. After every failure the next step is a hello,
// whose answer names the last batch of each lane that the cluster took, so nothing is sent under a new epoch
// that was taken under the old one.
//
// A batch is set aside, with an empty one in its place, when the answer for that batch says so, or when whole requests
// are refused and there is proof that it is to blame: two nodes refused it by itself, or one did for minutes. That
// happens at a bounded rate. A request is as long as the gateway's hello allows, and shorter than one that was refused.
//
// The package owns the connections to the nodes and the identity file. It imports agent/spool and agent/wire
// and nothing of the server.
package sender
