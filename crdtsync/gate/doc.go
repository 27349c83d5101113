// Package gate writes, decodes and checks automerge changes in plain Go.
//
// Automerge's core is compiled to abort, and foreign bytes of a hundred or so
// can make it do that, or take all memory; and to make a change it must load the
// document, which takes some 10 µs and 1 KB for each key. So it is for tests, which hold
// Encode to its bytes, and for who wants to read a document without alkfs: a
// document is its changes, one after the other. A document of ours is a flat map
// at the root whose keys are set once, so its changes need only a small part
// of the format (https://automerge.org/automerge-binary-format-spec/, change
// chunks): puts of byte values under string keys, with no object, no
// predecessor, no message and no time. Decode accepts exactly that and, by
// encoding again what it found and comparing, exactly the one spelling that the
// core itself writes: no run length, column or varint can hold a surprise that
// Encode would not have written. What it returns is all a receiver needs, so
// that finding out what changed costs the change and not the document.
//
// What a change alone cannot tell, its dependencies and the sequence of its
// actor, is for the keeper of the document to check.
package gate
