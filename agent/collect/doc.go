// Package collect reads the machine: it runs node_exporter's collectors as a library, in this process, and turns
// whatever a prometheus.Gatherer gives into the flat samples that Prometheus would store, under the same names.
//
// Samples carry local series numbers that the caller's dictionary gives out. Kinds counter, gauge, untyped,
// histogram (classic buckets) and summary are flattened as the text format writes them. The package keeps no
// samples. Collectors that exist on Linux only are behind a build tag. It imports agent/wire and nothing else of
// Triward.
package collect
