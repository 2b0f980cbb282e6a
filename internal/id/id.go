// Package id makes the identifiers of objects: 25 characters of base 36,
// 128 random bits, the form that Swarm users know.
package id

import (
	"crypto/rand"
	"math/big"
	"strings"
)

// Length of an identifier in characters.
const Length = 25

// New returns a random identifier.
func New() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand panics by itself
	return Encode(b[:])
}

// Encode writes 16 bytes as an identifier.
func Encode(b []byte) string {
	s := new(big.Int).SetBytes(b).Text(36)
	return strings.Repeat("0", max(0, Length-len(s))) + s
}
