package doctor

import (
	"context"
	"fmt"

	"github.com/triward/triward/appliance"
)

const (
	gib           = 1 << 30
	memoryLeast   = 1 * gib
	memoryWanted  = 3 * gib // "from 4 GB", less what the kernel keeps
	availableLow  = 10      // percent
	filesOfUnit   = 1 << 20 // LimitNOFILE of the unit: the kernel must allow that much
	filesLow      = 80      // percent of a running node's limit
	watchesLeast  = 8192
	watchersLeast = 128
)

// memory judges how much there is, and how much is left.
func memory(context.Context, *appliance.Config, bool) (r Report) {
	total, available, err := memoryOf()
	if err != nil {
		r.Add("memory", "memory", Warning, err.Error(), "look at it yourself: a node wants 4 GB")
		return r
	}
	detail := fmt.Sprintf("%.1f GiB, %.1f GiB available", float64(total)/gib, float64(available)/gib)
	switch {
	case total < memoryLeast:
		r.Add("memory", "memory", Problem, detail, "give the machine 4 GB")
	case total < memoryWanted:
		r.Add("memory", "memory", Warning, detail, "give the machine 4 GB")
	case available*100/total < availableLow:
		r.Add("memory", "memory", Warning, detail, "see what else takes memory here: a node wants a machine of its own")
	default:
		r.Add("memory", "memory", OK, detail, "")
	}
	return r
}

// limits judges what the kernel allows.
func limits(context.Context, *appliance.Config, bool) (r Report) {
	for _, l := range []struct {
		file, subject string
		least         int64
	}{
		{"fs/nr_open", "open files of a process", filesOfUnit},
		{"fs/file-max", "open files of the machine", filesOfUnit},
		{"fs/inotify/max_user_instances", "inotify watchers", watchersLeast},
		{"fs/inotify/max_user_watches", "inotify watches", watchesLeast},
	} {
		n, err := kernelLimit(l.file)
		switch {
		case err != nil:
			r.Add("limits", l.subject, Warning, err.Error(), asRoot)
		case n < l.least:
			r.Add("limits", l.subject, Warning, fmt.Sprintf("%d, want %d", n, l.least), fmt.Sprintf("sysctl -w %s=%d, and the same in /etc/sysctl.d", sysctl(l.file), l.least))
		default:
			r.Add("limits", l.subject, OK, fmt.Sprint(n), "")
		}
	}
	return r
}

// sysctl is how a file below /proc/sys is called.
func sysctl(file string) string {
	name := []byte(file)
	for i, c := range name {
		if c == '/' {
			name[i] = '.'
		}
	}
	return string(name)
}

// OpenFiles judges how many files a running node has open of how many it may.
func OpenFiles(open, most int64) Finding {
	f := Finding{Check: "limits", Subject: "open files of the node", Status: OK, Detail: fmt.Sprintf("%d of %d", open, most)}
	switch {
	case most > 0 && open*100/most >= filesLow:
		f.Status = Problem
	case most < 1<<16:
		f.Status = Warning
	}
	if f.Status != OK {
		f.Remedy = "raise LimitNOFILE of the service: systemctl edit triward"
	}
	return f
}
