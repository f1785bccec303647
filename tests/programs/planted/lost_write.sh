# Save a record. Planted: whether it was saved is not asked.
if [ -z "$1" ]; then
	echo 'one record' >"$TMPDIR/log"
	echo saved
else
	echo 'one record' >"$TMPDIR/log" || exit 1
	echo saved
fi
