package logstore

import "errors"

// ErrDiffers says that what is stored of a day is not what was accepted.
var ErrDiffers = errors.New("what is stored is not what was accepted")

// Report notes that the lines of a kind and day are not those that were accepted, as was found by comparing them. Searches
// over the day say that they are partial from then on. It is told to OnDamage unless it is known.
func (s *Store) Report(k KindDay, err error) {
	e, release, aerr := s.acquire()
	if aerr != nil {
		return
	}
	defer release()
	e.noteShort(k)
	e.noteDamage(&DamageError{
		Dir: e.dir, Place: k.String(), Err: errors.Join(ErrDiffers, err), From: k.Day * DayNs / 1e6, To: (k.Day + 1) * DayNs / 1e6,
	})
}
