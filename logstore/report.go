package logstore

import (
	"errors"
	"maps"
)

// ErrDiffers says that what is stored of a day is not what was accepted.
var ErrDiffers = errors.New("what is stored is not what was accepted")

// Dir is the directory of the open store, "" when there is none.
func (s *Store) Dir() string {
	e, release, err := s.acquire()
	if err != nil {
		return ""
	}
	defer release()
	return e.dir
}

// Report notes that the lines of a kind and day are not those that were accepted, as was found by comparing them. Searches
// over the day say that they are partial from then on. It is told to OnDamage unless it is known. What was found in a directory
// dir that is not open any more is passed over; an empty one is the one that is open.
func (s *Store) Report(dir string, k KindDay, err error) {
	e, release, aerr := s.acquire()
	if aerr != nil {
		return
	}
	defer release()
	if dir != "" && dir != e.dir {
		return
	}
	e.noteShort(k)
	e.noteDamage(&DamageError{
		Dir: e.dir, Place: k.String(), Err: errors.Join(ErrDiffers, err), From: k.Day * DayNs / 1e6, To: (k.Day + 1) * DayNs / 1e6,
	})
}

// Forget lets go of what is known of damage at the places: whoever looks there next finds it again, or not.
func (s *Store) Forget(places []string) {
	e, release, err := s.acquire()
	if err != nil {
		return
	}
	defer release()
	e.failMu.Lock()
	defer e.failMu.Unlock()
	for _, place := range places {
		delete(e.damage, place)
		maps.DeleteFunc(e.short, func(k KindDay, _ bool) bool { return k.String() == place })
	}
}
