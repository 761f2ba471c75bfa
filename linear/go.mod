module github.com/mtawal/mtawal/linear

go 1.26.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/mtawal/mtawal v0.0.0
	go.uber.org/goleak v1.3.0
)

require (
	github.com/edsrzf/mmap-go v1.2.0 // indirect
	github.com/klauspost/crc32 v1.3.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/mtawal/mtawal => ../
