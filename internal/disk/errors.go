package disk

import (
	"errors"
	"io/fs"
	"strings"
)

// PathError says what was being done to which file. A full device or quota in
// err is made to match [ErrNoSpace]; errors.Is finds the cause as well. nil
// stays nil.
func PathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if pe, ok := err.(*fs.PathError); ok {
		err = pe.Err // the os package has said the same
	}
	if isNoSpace(err) && !errors.Is(err, ErrNoSpace) {
		err = noSpaceError{err}
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

type noSpaceError struct{ error }

func (e noSpaceError) Is(target error) bool { return target == ErrNoSpace }
func (e noSpaceError) Unwrap() error        { return e.error }

// nameMax is the longest name that all file systems of note take, in bytes.
const nameMax = 255

// CheckName reports whether name can be a file of a directory: a plain name
// and no path, on any platform. The error matches fs.ErrInvalid.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > nameMax || strings.ContainsAny(name, "/\\:\x00") {
		return &fs.PathError{Op: "check name", Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
