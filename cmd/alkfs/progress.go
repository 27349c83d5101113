package main

import (
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/alkdev/alkfs"
)

// bar shows progress on a terminal and is silent elsewhere.
type bar struct{ p *progressbar.ProgressBar }

// newBar makes a bar; total < 0 means not known. bytes says what it counts.
func (a *app) newBar(label string, total int64, bytes bool) *bar {
	if !a.terminal() || a.json {
		return &bar{}
	}
	return &bar{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetDescription(label),
		progressbar.OptionShowBytes(bytes),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSpinnerType(14),
		progressbar.OptionSetPredictTime(total > 0),
		progressbar.OptionClearOnFinish(),
	)}
}

// at moves the bar to done of total.
func (b *bar) at(done, total int64) {
	if b.p == nil {
		return
	}
	if total > 0 && total != b.p.GetMax64() {
		b.p.ChangeMax64(total)
	}
	_ = b.p.Set64(done)
}

// transfer is the progress function of a put or get, nil when nothing is shown.
func (b *bar) transfer() func(alkfs.Progress) {
	if b.p == nil {
		return nil
	}
	return func(p alkfs.Progress) { b.at(p.Bytes, p.TotalBytes) }
}

// counting is the progress function of gc and fsck, nil when nothing is shown.
func (b *bar) counting() func(done, total int64) {
	if b.p == nil {
		return nil
	}
	return b.at
}

func (b *bar) done() {
	if b.p != nil {
		_ = b.p.Clear()
	}
}
