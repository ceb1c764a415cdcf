// Package lines is what all sources of log lines share: it recognises the time and the severity that a line
// states, and gathers lines into batches that it writes into the spool together with the positions of their
// sources.
//
// It promises that a line and the position behind it become durable in one record: a source that resumes from
// the spool's positions neither loses nor doubles a line. A full spool makes Add wait, which is what holds the
// sources back. It imports agent/spool and agent/wire and nothing else of Triward.
package lines
