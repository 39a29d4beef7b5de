// Package documents has no code: its tests hold README.md and docs to the
// repository. A document that names a test, a file, or a target of the Makefile
// names one that exists, and every link between them leads somewhere.
package documents
