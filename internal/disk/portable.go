package disk

import "os"

// writeZeros makes a file longer with written blocks.
func writeZeros(f *os.File, old, size int64) error {
	if size <= old {
		return nil
	}
	zeros := make([]byte, min(size-old, 1<<20))
	for old < size {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-old)], old)
		if err != nil {
			return err
		}
		old += int64(n)
	}
	return nil
}

// writeAndSync is writeDurable where there is no such call.
func writeAndSync(f *os.File, off int64, bufs [][]byte) error {
	for _, b := range bufs {
		n, err := f.WriteAt(b, off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return f.Sync()
}
