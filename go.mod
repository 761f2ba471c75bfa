module github.com/mtawal/mtawal

go 1.26
