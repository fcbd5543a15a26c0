# The whole test suite, as CI runs it. With arguments: those tests, as pytest takes them. Same code as ./scripts/test.
$project = Join-Path $PSScriptRoot 'project.py'
if ($env:VIRTUAL_ENV) { & (Join-Path $env:VIRTUAL_ENV 'Scripts\python.exe') $project test @args }
elseif (Get-Command py -ErrorAction SilentlyContinue) { & py -3 $project test @args }
else { & python $project test @args }
exit $LASTEXITCODE
