// Package imports holds nothing but a test: it keeps the project's import
// graph to the table of docs/design.md, so that the data path never comes to
// depend on what stands above it.
package imports
