// Package writesession holds open files: what was changed and not published.
package writesession
