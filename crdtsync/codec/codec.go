// Package codec is CBOR as nodes write it to each other: core deterministic
// encoding (RFC 8949 section 4.2.1), so that what is signed has one spelling, and
// a decoder that bounds what it is given.
package codec

import "github.com/fxamacker/cbor/v2"

// Modes returns the encoder, and a decoder with these limits that takes neither
// tags nor lengths that are not said first.
func Modes(limits cbor.DecOptions) (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	limits.IndefLength, limits.TagsMd = cbor.IndefLengthForbidden, cbor.TagsForbidden
	dec, err := limits.DecMode()
	if err != nil {
		panic(err)
	}
	return enc, dec
}
