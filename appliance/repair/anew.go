package repair

import "github.com/triward/triward/raftstate"

// begunAnew notes in the new journal that the old one was not what was written. It is told with all that is known (tellKnown).
func (s *Service) begunAnew(why error) {
	at := s.cfg.Now().UnixMilli()
	d := Damage{Part: raftstate.PartNotes, Place: journalFile, Err: clip(why.Error()), FoundMs: at}
	s.journal.Records = append(s.journal.Records, Record{ID: idOf(s.cfg.Node, &d), Damage: d, FoundAt: at, RepairedAt: at, How: raftstate.HowAnew})
	s.save()
}
