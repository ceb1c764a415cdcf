package raftstate

// Small files beside the data that a node writes anew by itself when they are not what was written: of its members, of the
// verdicts on old entries, of its damage. Nothing is lost with them, but a disk that flips bits there does so elsewhere too,
// so it is told.

// PartNotes is a part of a node that can be damaged, beside those of damage.go: these files.
const PartNotes = "notes"

// HowAnew is a way in which damage ends: the file was written anew from what the node knows.
const HowAnew = "written_anew"

// noteDamaged tells that such a file is damaged, before it is written anew.
func (n *Node) noteDamaged(place string, err error) {
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Found(Damage{Part: PartNotes, Place: place, Err: err.Error()})
	}
}

// noteMended tells that the file at place is there again.
func (n *Node) noteMended(place string) {
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Done(Repaired{Parts: []string{PartNotes}, Places: []string{place}, How: HowAnew})
	}
}
