//go:build !linux

package main

func deviceOf(string) (string, bool) { return "", false }
