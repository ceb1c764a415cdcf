package tsdb

// Break makes the store what a failed write makes it.
func (s *Store) Break(cause error) { _ = s.current.Load().fail(cause) }
