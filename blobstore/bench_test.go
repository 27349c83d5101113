package blobstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

const benchSize = 1 << 30

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{1 << 10, 4 << 10, 16 << 10, 128 << 10, 1 << 20, 64 << 20} {
		p := noise(1, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(p)
			}
		})
	}
}

// writeAll writes benchSize bytes in requests of 1 MiB.
func writeAll(b *testing.B, write func(p []byte, off int64) (int, error)) {
	b.Helper()
	p := noise(2, 2<<20)
	for off := int64(0); off < benchSize; off += 1 << 20 {
		if _, err := write(p[(off>>20)%1024:][:1<<20], off); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWritePlain(b *testing.B) {
	b.SetBytes(benchSize)
	for b.Loop() {
		f, err := os.Create(b.TempDir() + "/f")
		if err != nil {
			b.Fatal(err)
		}
		writeAll(b, f.WriteAt)
		f.Close()
		os.Remove(f.Name())
	}
}

func BenchmarkWriteStaged(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{SyncAfter: -1})
	b.SetBytes(benchSize)
	for b.Loop() {
		st, err := s.NewStaging()
		if err != nil {
			b.Fatal(err)
		}
		writeAll(b, st.WriteAt)
		b.StopTimer()
		st.Discard()
		b.StartTimer()
	}
}

// The time that Seal takes after a sequential write of 1 GiB.
func BenchmarkSealAfterWrite(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{SyncAfter: -1})
	for b.Loop() {
		b.StopTimer()
		st, err := s.NewStaging()
		if err != nil {
			b.Fatal(err)
		}
		writeAll(b, st.WriteAt)
		b.StartTimer()
		h, err := st.Seal(context.Background(), benchSize)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.Remove(s.blobPath(h))
		b.StartTimer()
	}
}

func benchBlob(b *testing.B, s *Store) *Blob {
	b.Helper()
	st, err := s.NewStaging()
	if err != nil {
		b.Fatal(err)
	}
	writeAll(b, st.WriteAt)
	h := seal(b, st, benchSize)
	blob, err := s.Open(h, benchSize)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { blob.Close() })
	return blob
}

// 4 KiB written to 1 GiB: the copy, and what Seal takes after it.
func BenchmarkOverwrite(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{SyncAfter: -1})
	blob := benchBlob(b, s)
	p := noise(3, 4096)
	for _, part := range []string{"copy", "seal"} {
		b.Run(part, func(b *testing.B) {
			stop := func(on bool) {
				if on {
					b.StopTimer()
				} else {
					b.StartTimer()
				}
			}
			for b.Loop() {
				stop(part == "seal")
				st, err := s.NewStaging()
				if err != nil {
					b.Fatal(err)
				}
				const at = 512<<20 + 4096
				if err := st.CopyFrom(blob, 0, at); err != nil {
					b.Fatal(err)
				}
				if _, err := st.WriteAt(p, at); err != nil {
					b.Fatal(err)
				}
				if err := st.CopyFrom(blob, at+4096, benchSize-at-4096); err != nil {
					b.Fatal(err)
				}
				stop(part == "copy")
				p[0]++
				h, err := st.Seal(context.Background(), benchSize)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.Remove(s.blobPath(h))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{SyncAfter: -1})
	blob := benchBlob(b, s)
	for _, n := range []int{4 << 10, 128 << 10, 1 << 20} {
		for name, read := range map[string]func([]byte, int64) (int, error){"verified": blob.ReadAt, "pread": blob.File().ReadAt} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				p := make([]byte, n)
				for off := int64(0); off < benchSize; off += int64(n) {
					if _, err := read(p, off); err != nil {
						b.Fatal(err)
					}
				}
				rnd := rand.New(rand.NewPCG(1, 1))
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := read(p, rnd.Int64N(benchSize/int64(n))*int64(n)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
	b.Run("first", func(b *testing.B) {
		p := make([]byte, 1<<20)
		b.SetBytes(benchSize)
		for b.Loop() {
			s.forget(blob.hash)
			fresh, err := s.Open(blob.hash, benchSize)
			if err != nil {
				b.Fatal(err)
			}
			for off := int64(0); off < benchSize; off += 1 << 20 {
				if _, err := fresh.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
			}
			fresh.Close()
		}
	})
}

func BenchmarkSealSparse10GiB(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{SyncAfter: -1})
	for b.Loop() {
		st, err := s.NewStaging()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.WriteAt([]byte("x"), 5<<30); err != nil {
			b.Fatal(err)
		}
		h, err := st.Seal(context.Background(), 10<<30)
		if err != nil {
			b.Fatal(err)
		}
		os.Remove(s.blobPath(h))
	}
}

func BenchmarkPutInline(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{})
	p := noise(4, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p[0], p[1], p[2] = byte(i), byte(i>>8), byte(i>>16)
		if err := s.db.Write(func(tx *schema.Tx) error { _, err := s.PutInline(tx, p); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

// The whole way of a file of 100 KiB.
func BenchmarkSealSmall(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{})
	p := noise(5, 100<<10)
	for i := 0; b.Loop(); i++ {
		p[0], p[1], p[2] = byte(i), byte(i>>8), byte(i>>16)
		sealFile(b, s, p)
	}
}

func BenchmarkOpenCached(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{})
	p := noise(6, 100<<10)
	h := sealFile(b, s, p)
	b.ReportAllocs()
	for b.Loop() {
		blob, err := s.Open(h, 100<<10)
		if err != nil {
			b.Fatal(err)
		}
		blob.Close()
	}
}
