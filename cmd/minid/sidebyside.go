package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// row is a line of each text, with the mark of how they differ: ' ' not at all,
// '<' only the left one is there, '>' only the right one, '|' both.
type row struct {
	left, right string
	mark        byte
}

// sideBySide writes two texts in columns, nothing of nothing.
func sideBySide(left, right string) string {
	if left == "" && right == "" {
		return ""
	}
	rows := align(linesOf("wanted\n"+left), linesOf("actual\n"+right))
	rows[0].mark = ' '
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r.left))
	}
	var b strings.Builder
	for _, r := range rows {
		line := fmt.Sprintf("  %-*s %c %s", width, r.left, r.mark, r.right)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// linesOf are the lines of a text, tabs as spaces so that columns stay straight.
func linesOf(text string) []string {
	return strings.Split(strings.TrimSuffix(strings.ReplaceAll(text, "\t", "    "), "\n"), "\n")
}

// align pairs the lines of two texts. Where they part it goes on at the nearest
// line that both have: a line is rarely there twice, so that suffices.
func align(left, right []string) []row {
	inLeft, inRight := positions(left), positions(right)
	var out []row
	for i, j := 0, 0; i < len(left) || j < len(right); {
		switch skipLeft, skipRight := distance(inLeft, right, j, i), distance(inRight, left, i, j); {
		case i < len(left) && j < len(right) && left[i] == right[j]:
			out = append(out, row{left[i], right[j], ' '})
			i, j = i+1, j+1
		case skipRight >= 0 && (skipLeft < 0 || skipRight <= skipLeft):
			for ; skipRight > 0; skipRight-- {
				out = append(out, row{"", right[j], '>'})
				j++
			}
		case skipLeft >= 0:
			for ; skipLeft > 0; skipLeft-- {
				out = append(out, row{left[i], "", '<'})
				i++
			}
		default:
			out = append(out, differing(left, right, i, j))
			i, j = i+1, j+1
		}
	}
	return out
}

// differing is the row of two lines that are nowhere in the other text.
func differing(left, right []string, i, j int) row {
	switch {
	case i >= len(left):
		return row{"", right[j], '>'}
	case j >= len(right):
		return row{left[i], "", '<'}
	}
	return row{left[i], right[j], '|'}
}

// positions of each line, ascending.
func positions(lines []string) map[string][]int {
	out := make(map[string][]int, len(lines))
	for i, line := range lines {
		out[line] = append(out[line], i)
	}
	return out
}

// distance is how far behind from the line lines[at] is found; -1 if it is not,
// or there is no such line.
func distance(where map[string][]int, lines []string, at, from int) int {
	if at >= len(lines) {
		return -1
	}
	list := where[lines[at]]
	if i, _ := slices.BinarySearch(list, from); i < len(list) {
		return list[i] - from
	}
	return -1
}
