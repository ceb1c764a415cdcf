package ui

// Follower reads a LineFeed for somebody who is not a subscription of the hub. It is not safe for concurrent use.
type Follower struct{ reader *feedReader }

// Follow returns a Follower of the lines after the position, which is the last one that was shown.
func (f *LineFeed) Follow() (*Follower, Position) {
	r, head := f.reader()
	return &Follower{r}, head
}

// Read returns the lines since the last call, how many were lost before them (-1 when nobody knows) because the follower
// was too slow or the node took its state from another one, and the position up to which it then has been shown everything.
// It never waits. The lines are not changed any more.
func (f *Follower) Read() (lines []Line, lost int, head Position) { return f.reader.read() }

// Close ends the following.
func (f *Follower) Close() { f.reader.close() }
