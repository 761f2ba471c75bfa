package checkpoint

import (
	"encoding/binary"
	"fmt"

	"github.com/mtawal/mtawal/segment"
)

func sprint(v any) string { return fmt.Sprintf("%+v", v) }

// reseal makes the checksum of a header right that was changed.
func reseal(b []byte) { le.PutUint32(b[508:], segment.CRC(b[:508])) }

// forgery is a checkpoint whose checksums are right, whatever is in it.
type forgery struct {
	info     Info
	sections [sectionCount][]byte
	counts   [sectionCount]uint64
	// row, if set, changes a row of the directory.
	row func(i int, kind *byte, count, off, length *uint64)
	// behind comes after the directory's rows.
	behind []byte
}

func (f *forgery) bytes() []byte {
	b := f.info.encode()
	var dir []byte
	for i, s := range f.sections {
		kind, count, off, length := byte(i+1), f.counts[i], uint64(len(b)), uint64(len(s))
		crc := segment.CRC(s)
		b = append(b, s...)
		if f.row != nil {
			f.row(i, &kind, &count, &off, &length)
		}
		dir = append(dir, kind)
		dir = binary.AppendUvarint(dir, count)
		dir = binary.AppendUvarint(dir, off)
		dir = binary.AppendUvarint(dir, length)
		dir = le.AppendUint32(dir, crc)
	}
	dir = append(dir, f.behind...)
	b = append(b, dir...)
	b = le.AppendUint32(b, uint32(len(dir)))
	b = le.AppendUint32(b, segment.CRC(dir))
	return append(b, footerMagic...)
}
