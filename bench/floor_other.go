//go:build !linux

package main

// The floors are made of Linux system calls.
var floors []maker
