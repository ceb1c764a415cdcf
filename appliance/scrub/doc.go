// Package scrub looks for damage on one node by itself: it reads all that the node keeps, slowly and again and again, and
// compares it with checksums and with the running digests that Apply keeps (DESIGN D8).
//
// It owns the schedule of passes, their rate, where a pass is (a small file, so that a restart goes on from there) and the
// list of what was found. It promises that it changes no answer, holds up neither Apply nor the truncation of the head, and
// that what it reports as different was read and compared twice. It repairs nothing: what it finds it reports. It must not
// import the rest of the appliance.
//
// The deep digest of a day is the sum of the hashes of all that the store answers about it, the same hashes that Apply adds
// up. Data may come while a day is read, so the two are compared only when the running digest was the same before and
// after; a day that changes all the time, as the present one does, is left for a later pass.
package scrub
