// Package blobstore keeps file bytes by their BLAKE3 hash.
package blobstore
