package tsdb

// Forget lets go of what is known of damage at the places: whoever looks there next finds it again, or not.
func (s *Store) Forget(places []string) {
	g, err := s.hold()
	if err != nil {
		return
	}
	defer g.release()
	g.damageMu.Lock()
	defer g.damageMu.Unlock()
	for _, place := range places {
		delete(g.damage, place)
	}
}
