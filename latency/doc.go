// Package latency counts operations and how long they took.
//
// # Model
//
// A Set has a Histogram for each kind of operation of one surface. Recording
// one is reading the clock twice and adding to two words in memory, without a
// lock and without allocating: some 60 ns, so that every request can be. What a
// Set has counted is taken out as Counts, which can be added up over sets and
// processes, and subtracted to see what happened between two moments.
//
// Buckets are quarters of a power of two of nanoseconds, so that a quantile is
// right to about 10 %. HdrHistogram's finer ones would take 20 times the memory
// for digits nobody reads; an average alone would hide what users notice.
//
// An operation that took longer than a Set's threshold is also a line in the
// log, by its kind alone: names are nobody's business.
//
// Everything is safe for concurrent use. Counts may be torn by operations that
// end meanwhile, by one each.
package latency
