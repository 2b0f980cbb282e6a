package spec

import (
	"fmt"
	"strings"
)

// SplitWords splits a text as a shell does: white space separates, single and
// double quotes and backslashes protect. Nothing is expanded.
func SplitWords(s string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		quote  rune
		inWord bool
		escape bool
	)
	for _, r := range s {
		switch {
		case escape:
			word.WriteRune(r)
			escape = false
		case r == '\\' && quote != '\'':
			escape, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case strings.ContainsRune(" \t\n\r", r):
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escape {
		return nil, fmt.Errorf("a quote or backslash at the end is left open")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
