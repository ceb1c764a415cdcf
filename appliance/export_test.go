package appliance

import (
	"time"

	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/scrub"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// SetRing makes the ring this node's, as if it had lost the keys that came since.
func (k *Keys) SetRing(r *keyring.Ring) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring = r
}

// FalseAlarm has the stores call the day of t damaged, as one who reads wrongly would.
func (a *App) FalseAlarm(t time.Time) {
	day := t.UnixMilli() / dayMs
	a.integrity.reported(scrub.Damage{Part: raftstate.PartLogs, Kind: command.KindLogs.String(), From: day * dayMs, To: (day + 1) * dayMs, Err: scrub.ErrDiffers})
	a.integrity.reported(scrub.Damage{
		Part: raftstate.PartMetrics, Kind: command.KindMetrics.String(), From: day * dayMs, To: (day + 1) * dayMs, Place: "metrics of a day", Err: scrub.ErrDiffers,
	})
}
