// Package tail follows log files. Each line of a file reaches the spool exactly once: across restarts of the
// agent, renaming rotation, copy-and-truncate rotation, also when they happen while the agent is down and the
// rotated file still lies uncompressed beside.
//
// A file is known by device, inode and a fingerprint of its beginning, never by its name alone. Its position is
// the byte behind the last line taken and travels in the spool record of that line (package lines); bytes of a
// line or record that is not finished are read again rather than remembered.
//
// Files that came and left between two looks (the agent was down, the spool was full and reading waited, two rotations
// within half a second) are found beside the path, named after it (a.log.1, a.log-20261123) and not compressed. Those
// that are compressed already are told of as lost. What nobody can find is lost silently: files that were removed
// before anybody looked, or moved to another folder, and what copy-and-truncate itself loses (lines written between
// its copy and its truncation).
//
// One goroutine polls; memory is one read buffer and a small record per file. It imports agent/lines, agent/spool
// and agent/wire and nothing else of Triward.
package tail
