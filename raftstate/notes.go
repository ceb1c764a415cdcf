package raftstate

// Small files beside the data that a node makes anew by itself when they are not what was written: of its members, and of the
// verdicts on old entries. Nothing is lost with them, but a disk that flips bits there does so elsewhere too, so it is told.

// noteDamaged tells that such a file is damaged, before it is written anew.
func (n *Node) noteDamaged(place string, err error) {
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Found(Damage{Part: PartNotes, Place: place, Err: err.Error()})
	}
}

// noteMended tells that it is there again.
func (n *Node) noteMended(place string) {
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Done(Repaired{Parts: []string{PartNotes}, How: HowAnew})
	}
}
