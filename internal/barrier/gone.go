//go:build !barriermutant

package barrier

// Gone reports whether a barrier was taken away, which needs a build tag.
func Gone(Barrier) bool { return false }
