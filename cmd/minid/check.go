package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/minid/minid/node"
	"github.com/minid/minid/node/check"
)

func newCheckCommand(cfg *node.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Examine this host and say what is missing and how to get it",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return report(cmd.OutOrStdout(), check.Host(*cfg))
		},
	}
}

// report prints the findings; it fails when something that minid needs is missing.
func report(w io.Writer, findings []check.Finding) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	missing := 0
	for _, f := range findings {
		verdict := "ok"
		switch {
		case !f.OK && f.Needed:
			verdict = "MISSING"
			missing++
		case !f.OK:
			verdict = "warning"
		}
		line := f.Found
		if f.Try != "" {
			line += " (try: " + f.Try + ")"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", verdict, f.What, line)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if missing > 0 {
		return errors.New("minid cannot run here: see what is MISSING above")
	}
	return nil
}
