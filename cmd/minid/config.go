package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// applyDefaults fills flags that were not given from the environment and then
// from the --config file.
func applyDefaults(cmd *cobra.Command, lookup func(string) (string, bool)) error {
	flags := cmd.Flags()
	if err := fromEnvironment(flags, lookup); err != nil {
		return err
	}
	path, err := flags.GetString("config")
	if err != nil || path == "" {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read --config file: %w", err)
	}
	return fromFile(flags, path, data)
}

func fromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "MINID_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || f.Changed || failed != nil {
			return
		}
		if err := set(flags, f, strings.Split(value, ",")); err != nil {
			failed = fmt.Errorf("invalid %s=%q: %w", name, value, err)
		}
	})
	return failed
}

func fromFile(flags *pflag.FlagSet, path string, data []byte) error {
	var keys map[string]any
	if err := yaml.Unmarshal(data, &keys); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	for key, value := range keys {
		f := flags.Lookup(key)
		if f == nil || key == "config" {
			return fmt.Errorf("unknown key %q in %s: keys are the names of minid's flags", key, path)
		}
		if f.Changed {
			continue
		}
		if err := set(flags, f, texts(value)); err != nil {
			return fmt.Errorf("invalid %s in %s: %w", key, path, err)
		}
	}
	return nil
}

// texts turns a YAML scalar or list into flag values.
func texts(value any) []string {
	list, ok := value.([]any)
	if !ok {
		return []string{fmt.Sprint(value)}
	}
	var out []string
	for _, item := range list {
		out = append(out, fmt.Sprint(item))
	}
	return out
}

func set(flags *pflag.FlagSet, f *pflag.Flag, values []string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		f.Changed = true
		return list.Replace(values)
	}
	return flags.Set(f.Name, strings.Join(values, ","))
}
