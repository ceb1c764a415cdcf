package fleet

// Drift is how what an agent has relates to what its group is to have.
type Drift string

// The drifts.
const (
	DriftNone    Drift = "none"    // nothing is set for the group, and nothing is in effect
	DriftCurrent Drift = "current" // the newest version is in effect, whole
	DriftOwn     Drift = "own"     // it is, but for what agent.yaml of the host sets itself
	DriftPending Drift = "pending" // the agent does not have it yet
	DriftRefused Drift = "refused" // the agent does not take it and says why
	DriftOff     Drift = "off"     // agent.yaml of the host lets the cluster set nothing
	DriftUnknown Drift = "unknown" // the agent does not say: it is older, or was never heard of
)

// Condition is how an agent says it is, and what the cluster makes of it.
type Condition struct {
	// SpoolBytes and SpoolBatches wait on the host; SpoolLimit is how many bytes may. Nil when the agent does not say.
	SpoolBytes   *int64 `json:"spool_bytes,omitempty"`
	SpoolBatches *int64 `json:"spool_batches,omitempty"`
	SpoolLimit   *int64 `json:"spool_limit,omitempty"`
	// LagMS is how old the oldest thing is that waits there, ClockOffsetMS the cluster's clock minus the host's.
	LagMS         *int64 `json:"lag_ms,omitempty"`
	ClockOffsetMS *int64 `json:"clock_offset_ms,omitempty"`
	LostItems     int64  `json:"lost_items,omitempty"`
	// Config is what of the group's configuration is in effect.
	Config ConfigState `json:"config"`
}

// ConfigState is the configuration that an agent is to have and what it says of it.
type ConfigState struct {
	Drift Drift `json:"drift"`
	// WantedGroup is whose configuration counts: the agent's group, or the default one; WantedVersion 0 is none.
	WantedGroup   string `json:"wanted_group,omitempty"`
	WantedVersion uint64 `json:"wanted_version"`
	// Group and Version are of the one in effect; 0 for agent.yaml alone.
	Group   string `json:"group,omitempty"`
	Version uint64 `json:"version"`
	// Error is why the agent does not take the one wanted.
	Error string `json:"error,omitempty"`
	// Own are the keys that the group sets otherwise and the host keeps.
	Own []string `json:"own,omitempty"`
}

// heartbeat is what is read of the agent's sign of life.
type heartbeat struct {
	*Condition
	Version string `json:"version"`
	Config  *struct {
		State         string   `json:"state"`
		Group         string   `json:"group"`
		Version       uint64   `json:"version"`
		Hash          string   `json:"hash"`
		WantedVersion uint64   `json:"wanted_version"`
		WantedHash    string   `json:"wanted_hash"`
		Error         string   `json:"error"`
		Own           []string `json:"own"`
	} `json:"config"`
}

// bounds of what is passed on of an agent's words.
const (
	maxOwn  = 32
	maxText = 3 << 10
)

// compare sets what the agent says of its configuration beside what its group is to have.
func (v *View) compare(a *Agent, said *heartbeat) {
	c := &a.Config
	of, version, hash := v.cfg.Wanted(a.Group)
	*c = ConfigState{WantedGroup: of, WantedVersion: version, Drift: DriftUnknown}
	if said.Config == nil {
		return
	}
	s := said.Config
	c.Group, c.Version = s.Group, s.Version
	c.Own = s.Own[:min(len(s.Own), maxOwn)]
	aboutThis := s.WantedVersion == version && s.WantedHash == hash
	switch {
	case s.State == "off":
		c.Drift = DriftOff
	case s.State == "refused" && aboutThis:
		c.Drift = DriftRefused
	case s.Version == version && s.Hash == hash && (version == 0 || s.Group == of):
		c.Drift = DriftCurrent
		switch {
		case version == 0:
			c.Drift = DriftNone
		case len(c.Own) > 0:
			c.Drift = DriftOwn
		}
	default:
		c.Drift = DriftPending
	}
	if c.Drift == DriftRefused || c.Drift == DriftPending && aboutThis {
		c.Error = s.Error[:min(len(s.Error), maxText)]
	}
}
