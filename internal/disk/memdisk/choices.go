package memdisk

// Choices goes through all that can happen, one run after the other:
//
//	for c := new(Choices); ; {
//		fs := history.Clone()
//		fs.PowerCutWith(c.Choose)
//		... look at what is left, in the same way each time ...
//		if !c.Next() {
//			break
//		}
//	}
//
// The zero value is ready. It is for one goroutine.
type Choices struct {
	taken []choice
	pos   int
}

type choice struct{ k, n int }

// Choose picks the alternative of this run, in [0, n). It may be asked for
// anything that a run leaves open, as when to crash, not by PowerCutWith alone.
func (c *Choices) Choose(n int) int {
	if c.pos == len(c.taken) {
		c.taken = append(c.taken, choice{0, n})
	}
	t := c.taken[c.pos]
	if t.n != n {
		panic("memdisk: a run asked for other choices than the one before it; it is not deterministic")
	}
	c.pos++
	return t.k
}

// Next goes on to the next run, and reports whether there is one.
func (c *Choices) Next() bool {
	c.taken = c.taken[:c.pos]
	c.pos = 0
	for len(c.taken) > 0 {
		last := &c.taken[len(c.taken)-1]
		if last.k++; last.k < last.n {
			return true
		}
		c.taken = c.taken[:len(c.taken)-1]
	}
	return false
}

// Path is the choices of this run so far, for a test to print.
func (c *Choices) Path() []int {
	path := make([]int, 0, c.pos)
	for _, t := range c.taken[:c.pos] {
		path = append(path, t.k)
	}
	return path
}
